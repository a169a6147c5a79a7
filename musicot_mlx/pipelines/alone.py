"""The families of one network: a CLAP, which embeds, and a quantiser, which makes codes."""

from musicot_mlx.pipelines.family import Family

CLAP = Family(
    model_type="clap",
    title="CLAP",
    parts="musicot_mlx.pipelines.clap:PARTS",
    load="musicot_mlx.pipelines.clap:load",
    readers=(
        "musicot_mlx.convert.families.clap:read",
        "musicot_mlx.convert.families.laion_clap:read",
    ),
    reads="CLAP of transformers or laion_clap",
    check="musicot_mlx.convert.check.clap:comparisons",
    exact={"clap": r".*batch_norm.*"},  # its statistics are decibels: 16 bits would round them
    capabilities=frozenset({"ear"}),
)
RVQ = Family(
    model_type="rvq",
    title="RVQ",
    parts="musicot_mlx.pipelines.rvq:PARTS",
    load="musicot_mlx.pipelines.rvq:load",
    readers=("musicot_mlx.convert.families.rvq:read",),
    reads="ResidualVQ of vector_quantize_pytorch",
    check="musicot_mlx.convert.check.rvq:comparisons",
    exact={"rvq": r".*"},  # a code is a decision
)
