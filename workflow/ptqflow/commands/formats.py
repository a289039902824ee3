"""`ptqflow formats MODEL`: which form of checkpoint holds which recipe for a model, who serves it, and why not."""

import argparse

from ptqflow.checkpoints import registry
from ptqflow.commands.entries import recipe_entry, settings
from ptqflow.commands.located import located
from ptqflow.commands.recipes import recipes_of
from ptqflow.errors import ConfigError
from ptqflow.modeling.shapes import check_recipe
from ptqflow.presets import PRESETS, resolve
from ptqflow.recipes import Recipe

EXAMPLES = """examples:
  ptqflow formats resources/demo-model                            every preset
  ptqflow formats Qwen/Qwen3-1.7B --recipe awq-w4a16 gptq-w4a16   two of them; reads config.json from the hub
  ptqflow formats resources/demo-model --recipe gptq-w4a16 --set scheme.weights.group_size=64 scheme.weights.symmetric=true
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, and the recipes to look at."""
    parser.add_argument("model", help="a folder, or org/name[@revision] on the hub")
    parser.add_argument("--recipe", nargs="+", help="presets, or recipes of --config (default: all)")
    parser.add_argument("--config", help="a configuration, or the folder of a study, whose recipes are meant, too")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="changes of each preset that --recipe names"
    )


def run(args: argparse.Namespace) -> None:
    """Print a table of recipes and forms, then the reasons of each refusal, once."""
    found = located(args.model)
    recipes: dict[str, Recipe] = {name: resolve({"preset": name}) for name in PRESETS} | (
        recipes_of(args.config) if args.config else {}
    )
    if args.set:
        if not args.recipe:
            raise ConfigError("--set changes what --recipe names; name a preset, too")
        recipes |= {name: recipe_entry(name, settings(args.set))[1] for name in args.recipe}
    if unknown := [name for name in args.recipe or () if name not in recipes]:
        raise ConfigError(f"--recipe {unknown[0]}: no such recipe; `ptqflow recipes` lists them")
    recipes = {name: recipes[name] for name in args.recipe or recipes}
    forms = [registry.FAKE, *(form for form in registry.forms() if form != registry.FAKE)]
    width = max(map(len, recipes))
    print(" ".join([f"{'':<{width}}", *(f"{form:<{len(form)}}" for form in forms)]))
    reasons: dict[str, list[str]] = {}
    for name, recipe in recipes.items():
        cells = []
        for form in forms:
            reason = _reason(form, name, recipe, found.config, found.name)
            cells.append(f"{'–' if reason else 'yes':<{len(form)}}")
            if reason:
                reasons.setdefault(reason, []).append(f"{name} in {form}")
        print(" ".join([f"{name:<{width}}", *cells]))
    print("\nWhere a form is served:")
    for form in forms:
        print(f"  {form}: {registry.scheme(form).SERVED}")
    if reasons:
        print("\nWhy not:")
        for reason, who in reasons.items():
            print(f"  {', '.join(who)}:\n    {reason}")


def _reason(form: str, name: str, recipe: Recipe, config: dict[str, object], model: str) -> str | None:
    """Why a form cannot hold a recipe for this model, or None."""
    try:
        check_recipe(recipe, config, name, model)
    except ConfigError as error:
        return str(error)
    return registry.refusal(form, recipe, config)
