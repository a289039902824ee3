rule measure:
    input:
        checkpoint=lambda w: paths.checkpoint(w.platform, w.model, w.variant),
    output:
        paths.latency(),
    log:
        paths.log(paths.latency()),
    # The local profile gives it all cores: a timing shares the machine with nothing else.
    threads: threads_of("measure", least=4)
    resources:
        **asks("measure", devices=1),
        python=python_of,
    params:
        settings=lambda w: jobs.measure(w.model, w.timing),
        code=lambda w: jobs.measure_code(w.model, w.timing, w.variant),
    shell:
        ptqflow(ENGINE)
        + " measure --settings {params.settings:q} --code {params.code} --platform {wildcards.platform} --devices {resources.accelerator}"
        " --checkpoint {input.checkpoint} --output {output} 2>&1 | tee {log}"
