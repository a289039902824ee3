rule tokens:
    input:
        model="results/models/{model}/manifest.json",
    output:
        "results/calibration/{model}/{calibration}/tokens.parquet",
    log:
        "results/logs/tokens/{model}/{calibration}.log",
    params:
        settings=lambda w: jobs.tokens(w.calibration),
        source=lambda w: jobs.tokens_source(w.calibration),
        code=code("tokens"),
    shell:
        PTQFLOW + " tokens --settings {params.settings:q} --code {params.code}"
        " --model {input.model} --output {output} 2>&1 | tee {log}"


rule collect:
    input:
        model="results/models/{model}/manifest.json",
        tokens="results/calibration/{model}/{calibration}/tokens.parquet",
    output:
        "results/{platform}/calibration/{model}/{calibration}/manifest.json",
    log:
        "results/logs/{platform}/collect/{model}/{calibration}.log",
    resources:
        accelerator=1,
    params:
        settings=lambda w: jobs.collect(w.model),
        code=code("collect"),
    shell:
        PTQFLOW
        + " collect --settings {params.settings:q} --code {params.code} --platform {wildcards.platform}"
        " --model {input.model} --tokens {input.tokens} --output {output} 2>&1 | tee {log}"
