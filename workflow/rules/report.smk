# What people look at: the report, and the samples that it leads to in a file of their own.


rule samples:
    input:
        scores=table_jobs.samples_files("scores"),
        generations=table_jobs.samples_files("generations"),
    output:
        paths.SAMPLES,
    log:
        paths.log(paths.SAMPLES),
    localrule: "samples" in on_head
    threads: threads_of("samples")
    resources:
        **asks("samples", devices=0),
    params:
        settings=lambda w: table_jobs.samples(),
        source=lambda w: table_jobs.samples_source(),
        code=lambda w: table_jobs.samples_code(),
    shell:
        ptqflow(CORE) + " samples --settings {params.settings:q} --code {params.code}"
        " --scores {input.scores} --generations {input.generations} --output {output} 2>&1 | tee {log}"


rule report:
    input:
        tables=[paths.table(name, "parquet") for name in catalogue.TABLES],
        figures=[paths.figure(name) for name in table_jobs.figures()],
        prints=[paths.figure_for_print(name) for name in table_jobs.figures()],
        samples=[paths.SAMPLES] if table_jobs.samples_files("scores") else [],
    output:
        paths.REPORT,
    log:
        paths.log(paths.REPORT),
    localrule: "report" in on_head
    threads: threads_of("report")
    resources:
        **asks("report", devices=0),
    params:
        settings=lambda w: table_jobs.report(),
        source=lambda w: table_jobs.report_source(),
        code=code("report"),
    shell:
        ptqflow(CORE)
        + ' report --settings {params.settings:q} --code {params.code} --captions "$PTQFLOW_CODE"/report'
        " --tables "
        + paths.TABLES
        + " --figures {input.figures} --output {output} 2>&1 | tee {log}"
