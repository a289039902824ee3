rule tokens:
    input:
        model=lambda w: paths.model(w.model),
    output:
        paths.tokens(),
    log:
        paths.log(paths.tokens()),
    threads: threads_of("tokens")
    resources:
        **asks("tokens", devices=0),
    params:
        settings=lambda w: jobs.tokens(w.calibration),
        source=lambda w: jobs.tokens_source(w.calibration),
        code=code("tokens"),
    shell:
        ptqflow(CORE) + " tokens --settings {params.settings:q} --code {params.code}"
        " --model {input.model} --output {output} 2>&1 | tee {log}"


rule collect:
    input:
        model=lambda w: paths.model(w.model),
        tokens=paths.tokens(),
    output:
        paths.calibration(),
    log:
        paths.log(paths.calibration()),
    threads: threads_of("collect")
    resources:
        **asks("collect", devices=1),
    params:
        settings=lambda w: jobs.collect(w.model),
        code=lambda w: jobs.collect_code(w.model),
    shell:
        ptqflow(CORE)
        + " collect --settings {params.settings:q} --code {params.code} --platform {wildcards.platform} --devices {resources.accelerator}"
        " --model {input.model} --tokens {input.tokens} --output {output} 2>&1 | tee {log}"
