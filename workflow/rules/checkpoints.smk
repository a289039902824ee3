def qparams(w):
    """The integers and scales of every chunk of a recipe."""
    return [
        f"results/{w.platform}/quantized/{w.model}/{w.recipe}/chunk={k}/qparams.safetensors"
        for k in range(study.models[w.model].chunks)
    ]


rule export:
    input:
        model="results/models/{model}/manifest.json",
        qparams=qparams,
    output:
        "results/{platform}/checkpoints/{model}/{recipe}/{form}/manifest.json",
    log:
        "results/logs/{platform}/export/{model}/{recipe}.{form}.log",
    params:
        settings=lambda w: jobs.export(w.recipe, w.form),
        code=lambda w: jobs.export_code(w.recipe, w.form),
    shell:
        PTQFLOW + " export --settings {params.settings:q} --code {params.code}"
        " --model {input.model} --qparams {input.qparams} --output {output} 2>&1 | tee {log}"


rule verify:
    input:
        model="results/models/{model}/manifest.json",
        tokens=lambda w: f"results/calibration/{w.model}/{study.calibration_of(w.recipe)}/tokens.parquet",
        qparams=qparams,
        fake="results/{platform}/checkpoints/{model}/{recipe}/fake/manifest.json",
        checkpoint="results/{platform}/checkpoints/{model}/{recipe}/{form}/manifest.json",
    output:
        "results/{platform}/verification/{model}/{recipe}/{form}.parquet",
    log:
        "results/logs/{platform}/verify/{model}/{recipe}.{form}.log",
    resources:
        accelerator=1,
    params:
        settings=lambda w: jobs.verify(w.recipe, w.form),
        code=lambda w: jobs.verify_code(w.recipe, w.form),
    shell:
        PTQFLOW
        + " verify --settings {params.settings:q} --code {params.code} --platform {wildcards.platform}"
        " --model {input.model} --tokens {input.tokens} --qparams {input.qparams}"
        " --fake {input.fake} --checkpoint {input.checkpoint} --output {output} 2>&1 | tee {log}"
