rule overlap:
    input:
        tokens=paths.tokens(),
    output:
        paths.overlap(),
    log:
        paths.log(paths.overlap()),
    threads: threads_of("overlap")
    resources:
        **asks("overlap", devices=0),
    params:
        settings=lambda w: jobs.overlap(w.calibration, w.task),
        source=lambda w: jobs.overlap_source(w.calibration, w.task),
        code=lambda w: jobs.overlap_code(w.task),
    shell:
        ptqflow(CORE) + " overlap --settings {params.settings:q} --code {params.code}"
        " --tokens {input.tokens} --output {output} 2>&1 | tee {log}"
