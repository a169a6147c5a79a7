"""What a Plan is as a value: its length, its likes, its line and picture, what pickle keeps."""

from typing import TYPE_CHECKING, Any

from musicot_mlx.pipelines import notebook

if TYPE_CHECKING:
    from musicot_mlx.pipelines.plans.plan import Plan


class PlanValue:
    """The base of Plan. Plans are equal that are saved alike; one that is copied is the same, as it
    doesn't change; one that is pickled leaves its model behind.
    """

    def __len__(self: "Plan") -> int:
        return self.segments

    def __bool__(self) -> bool:
        return True

    def __eq__(self: "Plan", other: object) -> bool:
        if not isinstance(other, PlanValue):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    def __hash__(self: "Plan") -> int:
        return hash((self.prompt, self.duration, self.seed, self.codes.tobytes()))

    def __repr__(self: "Plan") -> str:
        return f"<Plan: {notebook.line_of_plan(self)}>"

    def _repr_html_(self: "Plan") -> str:
        return notebook.html_of_plan(self)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "model": None}

    def __copy__(self: "Plan") -> "Plan":
        return self

    def __deepcopy__(self: "Plan", memo: dict[int, Any]) -> "Plan":
        return self
