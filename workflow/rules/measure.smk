rule measure:
    input:
        checkpoint=lambda w: checkpoint(w.platform, w.model, w.variant),
    output:
        "results/{platform}/latency/{model}/{variant}/{engine}.parquet",
    log:
        "results/logs/{platform}/measure/{model}/{variant}/{engine}.log",
    # The local profile gives it all cores: a timing shares the machine with nothing else.
    threads: 4
    resources:
        accelerator=1,
    params:
        settings=lambda w: jobs.measure(w.engine),
        code=lambda w: jobs.measure_code(w.engine, w.variant),
    shell:
        PTQFLOW
        + " measure --settings {params.settings:q} --code {params.code} --platform {wildcards.platform}"
        " --checkpoint {input.checkpoint} --output {output} 2>&1 | tee {log}"
