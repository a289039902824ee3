# What another platform left and this study does not ask for is named, not mixed in.
if workflow.is_main_process:
    for left_out in table_jobs.left_out():
        print(left_out, file=sys.stderr)


rule aggregate:
    input:
        table_jobs.aggregate_inputs(),
    output:
        [
            paths.table(name, suffix)
            for name, suffixes in catalogue.TABLES.items()
            for suffix in suffixes
            if suffix != "html"
        ],
        [
            report(
                paths.table(name, "html"),
                caption=f"../report/{name}.rst",
                category="Answer" if name == "answer" else "Tables",
                labels={"table": name},
            )
            for name, suffixes in catalogue.TABLES.items()
            if "html" in suffixes
        ],
    log:
        paths.log(paths.table("aggregate", "parquet")),
    localrule: "aggregate" in on_head
    threads: threads_of("aggregate")
    resources:
        **asks("aggregate", devices=0),
    params:
        settings=lambda w: table_jobs.aggregate(),
        files=lambda w: table_jobs.aggregate_files(),
        source=lambda w: table_jobs.aggregate_source(),
        code=lambda w: table_jobs.aggregate_code(),
    shell:
        ptqflow(CORE)
        + " aggregate --settings {params.settings:q} --code {params.code} --tables "
        + paths.TABLES
        + " {params.files} 2>&1 | tee {log}"


rule plot:
    input:
        lambda w: [
            paths.table(name, "parquet") for name in catalogue.tables_of(w.figure)
        ],
    output:
        pdf=paths.figure_for_print(),
        svg=report(
            paths.figure(),
            caption="../report/figure.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
    log:
        paths.log(paths.figure()),
    localrule: "plot" in on_head
    threads: threads_of("plot")
    resources:
        **asks("plot", devices=0),
    params:
        settings=lambda w: table_jobs.plot(w.figure),
        code=lambda w: code("plot", f"reporting.figures.{w.figure}"),
        tables=lambda w: " ".join(
            f"--{name.replace('_', '-')} {paths.table(name, 'parquet')}"
            for name in catalogue.tables_of(w.figure)
        ),
    shell:
        ptqflow(CORE)
        + " plot --settings {params.settings:q} --code {params.code} {params.tables} --output {output} 2>&1 | tee {log}"
