rule fetch:
    output:
        paths.fetched(),
    log:
        paths.log(paths.fetched()),
    localrule: "fetch" in on_head
    threads: threads_of("fetch")
    resources:
        **asks("fetch", devices=0),
    params:
        settings=lambda w: jobs.fetch(w.model),
        source=lambda w: jobs.fetch_source(w.model, w.part),
        code=code("fetch"),
    shell:
        ptqflow(CORE)
        + " fetch --settings {params.settings:q} --code {params.code} --part {wildcards.part} --output {output} 2>&1 | tee {log}"


rule rotate:
    input:
        model=paths.model(),
    output:
        paths.rotated(),
    log:
        paths.log(paths.rotated()),
    threads: threads_of("rotate")
    resources:
        **asks("rotate", devices=0),
    params:
        settings=lambda w: jobs.rotate(w.rotation),
        code=lambda w: jobs.rotate_code(w.model, w.rotation),
    shell:
        ptqflow(CORE) + " rotate --settings {params.settings:q} --code {params.code}"
        " --model {input.model} --output {output} 2>&1 | tee {log}"
