def states_of(w):
    """Option and file that say what enters a chunk: tokens where they are enough, so that nothing waits for collect in vain."""
    calibration = study.calibration_of(w.recipe)
    if int(w.chunk) == 0 and not study.recipes[w.recipe].reads_statistics():
        return "--tokens", f"results/calibration/{w.model}/{calibration}/tokens.parquet"
    return (
        "--calibration",
        f"results/{w.platform}/calibration/{w.model}/{calibration}/manifest.json",
    )


rule quantize:
    input:
        model="results/models/{model}/manifest.json",
        states=lambda w: states_of(w)[1],
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
        states=lambda w: states_of(w)[0],
    shell:
        PTQFLOW
        + " quantize --settings {params.settings:q} --code {params.code} --platform {wildcards.platform}"
        " --model {input.model} {params.states} {input.states}"
        " --qparams {output.qparams} --diagnostics {output.diagnostics} --losses {output.losses} 2>&1 | tee {log}"
