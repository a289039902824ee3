rule export:
    input:
        model="results/models/{model}/manifest.json",
        qparams=lambda w: expand(
            "results/{platform}/quantized/{model}/{recipe}/chunk={chunk}/qparams.safetensors",
            chunk=range(study.models[w.model].chunks),
            **w,
        ),
    output:
        "results/{platform}/checkpoints/{model}/{recipe}/{form}/manifest.json",
    log:
        "results/logs/{platform}/export/{model}/{recipe}.{form}.log",
    params:
        settings=lambda w: jobs.export(w.recipe, w.form),
        code=lambda w: jobs.export_code(w.form),
    shell:
        PTQFLOW + " export --settings {params.settings:q} --code {params.code}"
        " --model {input.model} --qparams {input.qparams} --output {output} 2>&1 | tee {log}"
