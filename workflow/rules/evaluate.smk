rule generate:
    input:
        checkpoint=lambda w: paths.checkpoint(w.platform, w.model, w.variant),
    output:
        paths.generations(),
    log:
        paths.log(paths.generations()),
    threads: threads_of("generate")
    resources:
        **asks("generate", devices=1),
        python=python_of,
    params:
        settings=lambda w: jobs.generate(
            w.model, w.engine, w.task, int(w.seed), w.variant
        ),
        source=lambda w: jobs.generate_source(w.task),
        code=lambda w: jobs.generate_code(w.model, w.engine, w.task, w.variant),
    shell:
        ptqflow(ENGINE)
        + " generate --settings {params.settings:q} --code {params.code} --platform {wildcards.platform} --devices {resources.accelerator}"
        " --checkpoint {input.checkpoint} --output {output} 2>&1 | tee {log}"


rule score:
    input:
        generations=paths.generations(),
    output:
        paths.scores(),
    log:
        paths.log(paths.scores()),
    threads: threads_of("score")
    resources:
        **asks("score", devices=0),
    params:
        settings=lambda w: jobs.score(w.task),
        source=lambda w: jobs.score_source(w.task),
        code=lambda w: jobs.score_code(w.task),
    shell:
        ptqflow(CORE) + " score --settings {params.settings:q} --code {params.code}"
        " --generations {input.generations} --output {output} 2>&1 | tee {log}"
