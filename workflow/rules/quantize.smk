rule quantize:
    input:
        model="results/models/{model}/manifest.json",
        calibration=lambda w: f"results/{w.platform}/calibration/{w.model}/{study.calibration_of(w.recipe)}/manifest.json",
    output:
        qparams="results/{platform}/quantized/{model}/{recipe}/chunk={chunk}/qparams.safetensors",
        diagnostics="results/{platform}/quantized/{model}/{recipe}/chunk={chunk}/diagnostics.parquet",
        losses="results/{platform}/quantized/{model}/{recipe}/chunk={chunk}/losses.parquet",
    log:
        "results/logs/{platform}/quantize/{model}/{recipe}/chunk={chunk}.log",
    resources:
        accelerator=1,
    params:
        settings=lambda w: jobs.quantize(w.model, w.recipe, int(w.chunk)),
        code=lambda w: jobs.quantize_code(w.recipe),
    shell:
        PTQFLOW
        + " quantize --settings {params.settings:q} --code {params.code} --platform {wildcards.platform}"
        " --model {input.model} --calibration {input.calibration}"
        " --qparams {output.qparams} --diagnostics {output.diagnostics} --losses {output.losses} 2>&1 | tee {log}"
