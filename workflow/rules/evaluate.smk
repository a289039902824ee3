rule evaluate:
    input:
        checkpoint=lambda w: checkpoint(w.platform, w.model, w.variant),
    output:
        "results/{platform}/evaluation/{model}/{variant}/{suite}/seed={seed}.parquet",
    log:
        "results/logs/{platform}/evaluate/{model}/{variant}/{suite}.seed={seed}.log",
    resources:
        accelerator=1,
    params:
        settings=lambda w: jobs.evaluate(w.suite, int(w.seed)),
        source=lambda w: jobs.evaluate_source(w.suite),
        code=lambda w: jobs.evaluate_code(w.suite, w.variant),
    shell:
        PTQFLOW
        + " evaluate --settings {params.settings:q} --code {params.code} --platform {wildcards.platform}"
        " --checkpoint {input.checkpoint} --output {output} 2>&1 | tee {log}"
