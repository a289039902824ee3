rule fetch:
    output:
        paths.model(),
    log:
        paths.log(paths.model()),
    params:
        settings=lambda w: jobs.fetch(w.model),
        source=lambda w: jobs.fetch_source(w.model),
        code=code("fetch"),
    shell:
        PTQFLOW
        + " fetch --settings {params.settings:q} --code {params.code} --output {output} 2>&1 | tee {log}"
