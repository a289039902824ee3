rule selftest:
    output:
        paths.selftest(),
    log:
        paths.log(paths.selftest()),
    threads: threads_of("selftest")
    resources:
        **asks("selftest", devices=1),
    params:
        settings=jobs.selftest(),
        code=code("selftest"),
    shell:
        ptqflow(CORE) + " selftest --settings {params.settings:q} --code {params.code}"
        " --platform {wildcards.platform} --devices {resources.accelerator} --output {output} 2>&1 | tee {log}"


rule quantize:
    input:
        model=lambda w: paths.model(study.source_of(w.model, w.recipe)),
        states=lambda w: states_of(w)[1],
    output:
        qparams=paths.quantized("qparams.safetensors"),
        diagnostics=paths.quantized("diagnostics.parquet"),
        losses=paths.quantized("losses.parquet"),
    log:
        paths.log(paths.quantized("qparams.safetensors")),
    threads: threads_of("quantize")
    resources:
        **asks("quantize", devices=1),
    params:
        settings=lambda w: jobs.quantize(w.model, w.recipe, int(w.chunk)),
        code=lambda w: jobs.quantize_code(w.model, w.recipe),
        states=lambda w: states_of(w)[0],
    shell:
        ptqflow(CORE)
        + " quantize --settings {params.settings:q} --code {params.code} --platform {wildcards.platform} --devices {resources.accelerator}"
        " --model {input.model} {params.states} {input.states}"
        " --qparams {output.qparams} --diagnostics {output.diagnostics} --losses {output.losses} 2>&1 | tee {log}"


# One job for all blocks, since what stands out shows only beside the others.
rule rescue:
    input:
        model=lambda w: paths.model(study.source_of(w.model, w.recipe)),
        calibration=lambda w: paths.calibration(
            w.platform,
            study.source_of(w.model, w.recipe),
            study.calibration_of(w.recipe),
        ),
        qparams=lambda w: chunks_of(w, "qparams.safetensors"),
        diagnostics=lambda w: chunks_of(w, "diagnostics.parquet"),
        losses=lambda w: chunks_of(w, "losses.parquet"),
    output:
        qparams=paths.rescued("qparams.safetensors"),
        table=paths.rescued("rescue.parquet"),
    log:
        paths.log(paths.rescued("rescue.parquet")),
    threads: threads_of("rescue")
    resources:
        **asks("rescue", devices=1),
    params:
        settings=lambda w: jobs.rescue(w.recipe),
        code=lambda w: jobs.rescue_code(w.model, w.recipe),
    shell:
        ptqflow(CORE)
        + " rescue --settings {params.settings:q} --code {params.code} --platform {wildcards.platform} --devices {resources.accelerator}"
        " --model {input.model} --calibration {input.calibration} --qparams {input.qparams} --diagnostics {input.diagnostics}"
        " --losses {input.losses} --output {output.qparams} --table {output.table} 2>&1 | tee {log}"
