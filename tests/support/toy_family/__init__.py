"""A family of models in one folder: two layers that hum, with options and a reader of their own."""

from musicot_mlx.pipelines.family import Family

FAMILY = Family(
    model_type="toy",
    title="Toy",
    parts="tests.support.toy_family.pipeline:PARTS",
    load="tests.support.toy_family.pipeline:load",
    options="tests.support.toy_family.options:ToyOptions",
    stages={"hum": "humming"},
    memory="tests.support.toy_family.pipeline:needs",
    tasks={"hum": "tests.support.toy_family.task:HumTask"},
    readers=("tests.support.toy_family.reader:read",),
    reads="Toy of toyland",
    capabilities=frozenset({"songs"}),
)
