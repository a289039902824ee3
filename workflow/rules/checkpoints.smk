rule export:
    input:
        model=source,
        notices=lambda w: paths.notices(w.model),
        qparams=qparams,
    output:
        paths.checkpoint(),
    log:
        paths.log(paths.checkpoint()),
    threads: threads_of("export")
    resources:
        **asks("export", devices=0),
    params:
        settings=lambda w: jobs.export(w.recipe, w.form),
        code=lambda w: jobs.export_code(w.model, w.recipe, w.form),
    shell:
        ptqflow(CORE) + " export --settings {params.settings:q} --code {params.code}"
        " --model {input.model} --notices {input.notices} --qparams {input.qparams} --output {output} 2>&1 | tee {log}"


rule verify:
    input:
        model=source,
        tokens=tokens_of,
        qparams=qparams,
        fake=paths.checkpoint(variant="{recipe}.fake"),
        checkpoint=paths.checkpoint(),
    output:
        paths.verification(),
    log:
        paths.log(paths.verification()),
    threads: threads_of("verify")
    resources:
        **asks("verify", devices=1),
    params:
        settings=lambda w: jobs.verify(w.recipe, w.form),
        code=lambda w: jobs.verify_code(w.model, w.recipe, w.form),
    shell:
        ptqflow(CORE)
        + " verify --settings {params.settings:q} --code {params.code} --platform {wildcards.platform} --devices {resources.accelerator}"
        " --model {input.model} --tokens {input.tokens} --qparams {input.qparams}"
        " --fake {input.fake} --checkpoint {input.checkpoint} --output {output} 2>&1 | tee {log}"
