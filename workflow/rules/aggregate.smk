# The tables that each figure draws from.
FIGURES = {
    "accuracy": ["accuracy"],
    "layer_error": ["layer_error"],
    "latency": ["latency"],
    "pareto": ["accuracy", "sizes"],
}
TABLES = {
    "accuracy": ["parquet", "csv", "md", "tex"],
    "layer_error": ["parquet", "csv"],
    "latency": ["parquet", "csv", "md"],
    "sizes": ["parquet", "csv", "md"],
    "verification": ["parquet", "csv", "md"],
}


rule aggregate:
    input:
        jobs.aggregate_inputs(),
    output:
        [
            f"results/tables/{name}.{suffix}"
            for name, suffixes in TABLES.items()
            for suffix in suffixes
        ],
        [
            report(
                f"results/tables/{name}.html",
                caption=f"../report/{name}.rst",
                category="Tables",
                labels={"table": name},
            )
            for name in ("accuracy", "latency", "sizes", "verification")
        ],
    log:
        "results/logs/aggregate.log",
    params:
        settings=jobs.aggregate(),
        files=jobs.aggregate_files(),
        source=jobs.aggregate_source(),
        code=code("aggregate"),
    shell:
        PTQFLOW
        + " aggregate --settings {params.settings:q} --code {params.code} --tables results/tables"
        " {params.files} 2>&1 | tee {log}"


rule plot:
    input:
        lambda w: [f"results/tables/{name}.parquet" for name in FIGURES[w.figure]],
    output:
        report(
            "results/figures/{figure}.svg",
            caption="../report/figure.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
    log:
        "results/logs/plot/{figure}.log",
    params:
        settings=lambda w: jobs.plot(w.figure),
        code=lambda w: code("plot", f"reporting.figures.{w.figure}"),
        tables=lambda w: " ".join(
            f"--{n.replace('_', '-')} results/tables/{n}.parquet"
            for n in FIGURES[w.figure]
        ),
    shell:
        PTQFLOW
        + " plot --settings {params.settings:q} --code {params.code} {params.tables} --output {output} 2>&1 | tee {log}"
