"""The shipped tasks and published scores: each parses, says where it comes from, and states what its source does."""

from __future__ import annotations

from collections import Counter
from importlib.resources import files
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from biomedica.errors import ConfigError, DataMissingError, EvaluationError
from biomedica.evaluate.published_scores import (
    METRICS,
    OTHER_METRICS,
    PublishedScore,
    load_published,
    parse_published,
)
from biomedica.evaluate.readers import READERS, read_items, task_splits
from biomedica.evaluate.readers.rows import read_options
from biomedica.evaluate.tasks import Task, choose, load_tasks, parse_task

TASKS = load_tasks()
PUBLISHED = load_published()
SPECIALTIES = {
    "pathology",
    "radiology",
    "ophthalmology",
    "dermatology",
    "surgery",
    "molecular biology",
    "parasitology",
    "cell biology",
}
"""As the abstract of BIOMEDICA names them."""
FREE = {"ubench-opencell", "ubench-sirinukunwattana-2016"}
"""One candidate caption for each picture."""


def suite(name: str) -> list[Task]:
    """Tasks of a suite."""
    return [task for task in TASKS.values() if name in task.suites]


# --- Tasks -------------------------------------------------------------------------------------------


def test_names_are_those_of_the_files() -> None:
    """A task is found by its file's name."""
    own = {each.name for each in (files("biomedica") / "data" / "tasks").iterdir()}
    assert own == {f"{name}.toml" for name in TASKS}
    assert all(name == task.name for name, task in TASKS.items())


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_a_task_is_complete(task: Task, tmp_path: Path) -> None:
    """It says what one needs to have its data and to cite it, and its reader takes its options."""
    access = task.access
    assert access.url.startswith("https://")
    assert access.licence and access.how and access.citation and task.about and task.suites
    assert task.specialty in SPECIALTIES
    assert "DATA" in access.how, "where the files are put"
    assert not task.data.ids_sha256, "nobody has measured it"
    read_options(task, READERS[task.data.reader].settings)
    with pytest.raises(DataMissingError, match=task.name) as caught:
        split = task_splits(task, tmp_path)[-1]
        read_items(task, tmp_path, split)
    assert access.url in str(caught.value)


def test_biomedica_has_forty_tasks_in_eight_specialties() -> None:
    """39 to classify and one of retrieval: the snapshot's 35, four coarse ones of μ-Bench, BioMedFlickr.

    Two of the 35 have one candidate caption; their chance is 1, so that nobody takes them for a success.
    """
    tasks = suite("biomedica")
    assert Counter(task.kind for task in tasks) == {"options": 39, "retrieval": 1}
    assert {task.specialty for task in tasks} == SPECIALTIES
    assert len(suite("evalset")) == 35
    assert len(suite("ubench-coarse")) == 4
    assert {task.name for task in tasks if task.chance == 1} == FREE
    folders = Counter(task.data.path.split("/")[2] for task in suite("evalset"))
    assert folders == {
        "medmnist": 6,
        "patchcamelyon": 1,
        "ubench": 22,
        "lc25000": 2,
        "chexpert": 1,
        "rsna": 1,
        "cataracts": 1,
        "dresden": 1,
    }


def test_no_row_of_the_snapshot_is_asked_twice() -> None:
    """Tasks of one suite take different rows."""
    taken: list[str] = []
    for task in suite("evalset"):
        names = task.data.options.get("task", "all")
        taken += [
            f"{task.data.path} {each}" for each in ([names] if isinstance(names, str) else names)
        ]
    assert len(set(taken)) == len(taken)


def test_what_is_inferred_is_said() -> None:
    """The paper's list was not to be had."""
    assert all("inferred" in task.about for task in suite("biomedica") if task.kind == "options")


def test_licences_that_are_easily_got_wrong() -> None:
    """DermaMNIST is not for commercial use, whatever the snapshot's rows say."""
    assert TASKS["dermamnist"].access.licence == "CC BY-NC 4.0"
    assert TASKS["biomedica-dermamnist"].access.licence.startswith("CC BY-NC 4.0")
    assert TASKS["pcam"].access.licence == TASKS["biomedica-pcam"].access.licence == "CC0 1.0"
    assert "Research Use Agreement" in TASKS["biomedica-chexpert"].access.licence
    assert TASKS["vqa-rad"].access.licence == "CC0 1.0"
    assert TASKS["slake"].access.licence == "CC BY 4.0"
    for name in ("biomedica-chexpert", "biomedica-rsna", "biomedica-cataracts", "rsna-pneumonia"):
        assert TASKS[name].access.terms == "click-through"


def test_the_snapshot_is_read_as_it_lies(tmp_path: Path) -> None:
    """The suite is the second folder of its paths; a task takes its own rows; a wrong guess shows the names."""
    folder = tmp_path / "Biomedica2025EvalSet" / "data" / "lc25000" / "test"
    folder.mkdir(parents=True)
    names = ["LC25000_Lung", "LC25000_Colon", "LC25000_Lung"]
    table = {
        "image": [{"bytes": b"", "path": None}] * 3,
        "task": names,
        "options": [["Benign.", "Malignant."]] * 3,
        "answer_idx": [0, 1, 1],
        "label": ["n", "aca", "aca"],
        "image_id": ["a", "b", "c"],
        "provenance_license": ["CC BY 4.0"] * 3,
    }
    pq.write_table(pa.table(table), folder / "part-0.parquet")
    items = read_items(TASKS["biomedica-lc25000-lung"], tmp_path, "test")
    assert items.ids == ("a", "c")
    assert items.labels_N is not None
    assert items.labels_N.tolist() == [0, 1]
    table["task"] = ["tumour of the lung"] * 3
    pq.write_table(pa.table(table), folder / "part-0.parquet")
    with pytest.raises(EvaluationError, match="there are tumour of the lung"):
        read_items(TASKS["biomedica-lc25000-lung"], tmp_path, "test")


THIS = ("this is an image of {}", "{} presented in image")
PHOTO = ("a photo of {}", "{} presented in image")


@pytest.mark.parametrize(
    ("name", "words", "templates"),
    [
        ("pcam", ("normal lymph node", "lymph node metastasis"), THIS),
        (
            "lc25000-lung",
            ("lung adenocarcinomas", "normal lung tissue", "lung squamous cell carcinomas"),
            THIS,
        ),
        ("lc25000-colon", ("colon adenocarcinomas", "normal colonic tissue"), PHOTO),
        ("tcga-til", ("none", "tumor infiltrating lymphocytes"), PHOTO),
        ("rsna-pneumonia", ("normal lung", "pneumonia"), PHOTO),
    ],
)
def test_prompts_of_biomedclip(
    name: str, words: tuple[str, ...], templates: tuple[str, ...]
) -> None:
    """As supplementary table 10 documents them; they come first, so the tasks are ranked by them."""
    task = TASKS[name]
    assert next(iter(task.prompts)) == "paper"
    assert task.texts("paper") == [[each.format(word) for each in templates] for word in words]
    assert task.texts("single") == [[templates[0].format(word)] for word in words]


def test_the_prompts_that_reproduce_lung() -> None:
    """Those with which the public checkpoint comes to the paper's number."""
    texts = TASKS["lc25000-lung"].texts("reproduces")
    assert texts[1] == ["a photo of normal lung tissue", "normal lung tissue presented in image"]


def test_medmnist() -> None:
    """Twelve flat sets; the classes in the package's order, which the labels are numbers in."""
    tasks = {task.name: task for task in suite("medmnist")}
    counts = {name: len(task.classes) for name, task in tasks.items()}
    assert counts == {
        "pathmnist": 9,
        "chestmnist": 14,
        "dermamnist": 7,
        "octmnist": 4,
        "pneumoniamnist": 2,
        "retinamnist": 5,
        "breastmnist": 2,
        "bloodmnist": 8,
        "tissuemnist": 8,
        "organamnist": 11,
        "organcmnist": 11,
        "organsmnist": 11,
    }
    assert tasks["chestmnist"].kind == "multilabel"
    assert tasks["dermamnist"].class_names[4] == "melanoma"
    assert tasks["organamnist"].class_names[1] == "femur-left"
    assert tasks["organamnist"].texts("single")[1] == ["axial CT of the left femur"]
    assert tasks["retinamnist"].class_names == ("0", "1", "2", "3", "4")
    assert all(list(task.prompts)[:2] == ["single", "ensemble"] for task in tasks.values())


def test_tasks_are_chosen_by_suite_specialty_and_kind() -> None:
    """The words that stand in the files."""
    assert len(choose(TASKS, ["biomedica"])) == 40
    assert {task.name for task in choose(TASKS, ["vqa"])} == {"vqa-rad", "slake"}
    with pytest.raises(ConfigError, match="did you mean"):
        choose(TASKS, ["biomedicas"])


def test_a_nested_name_that_is_unknown_is_refused() -> None:
    """As one at the top is."""
    text = (files("biomedica") / "data" / "tasks" / "slake.toml").read_text("utf-8")
    with pytest.raises(ConfigError, match=r"task mine: access\.licnece"):
        parse_task(text.replace("licence =", 'licnece = ""\nlicence ='), "mine")


# --- Published scores -------------------------------------------------------------------------------


def published(model: str, dataset: str, metric: str, source: str = "") -> PublishedScore:
    """The one score of that name."""
    found = [
        each
        for each in PUBLISHED
        if (each.model, each.dataset, each.metric) == (model, dataset, metric)
        and source in each.source
    ]
    assert len(found) == 1
    return found[0]


def test_published_scores_name_tasks_and_metrics() -> None:
    """Every one is a share with a source, of a task that there is or of none."""
    asked = {"zero_shot": {"options", "classification"}, "vqa_head": {"vqa"}}
    for each in PUBLISHED:
        assert each.source and each.model and each.dataset
        assert 0 <= each.value <= 1
        assert each.metric in {*METRICS, *OTHER_METRICS} or "_to_" in each.metric
        if each.task is not None:
            kinds = asked.get(each.protocol, {"classification"})
            assert TASKS[each.task].kind in kinds, each


def test_no_number_stands_twice() -> None:
    """Of one source."""
    seen = Counter((e.model, e.dataset, e.metric, e.protocol, e.source) for e in PUBLISHED)
    assert seen.most_common(1)[0][1] == 1


def test_spots_of_the_published_tables() -> None:
    """One of each table, as it is printed."""
    coarse = "μ-Bench coarse, average"
    assert published("BMCA-CLIP CF, WiSE-FT", coarse, "mean_accuracy").value == 0.5853
    domain = published("BiomedCLIP", "μ-Bench coarse, domain (DM)", "accuracy")
    assert (domain.value, domain.task) == (0.4154, "ubench-coarse-domain")
    lung = published("BiomedCLIP", "LC25000 (Lung)", "accuracy", "S5")
    assert (lung.value, lung.task, lung.how) == (0.6523, "lc25000-lung", "paper")
    til = published("BiomedCLIP", "TCGA-TIL", "auroc", "S5")
    assert til.value == 0.6704
    recall = published("BiomedCLIP", "PMC-15M test, 725,739 pairs", "text_to_image/1")
    assert (recall.value, recall.task, recall.how) == (0.696, None, "read off a figure")
    vqa = published("BiomedCLIP (METER)", "VQA-RAD, overall", "accuracy")
    assert (vqa.value, vqa.protocol) == (0.727, "vqa_head")
    assert published("S7: 40 epochs, batch 4k, 64k after 8 epochs", "PMC-15M validation, 13.6 k pairs",
                     "image_to_text/1").value == pytest.approx(0.8732)  # fmt: skip
    again = published("BiomedCLIP", "PCam", "accuracy", "AndyUB")
    assert (again.value, again.how) == (0.7267, "third party")


def test_averages_of_the_coarse_table_are_means_but_for_two() -> None:
    """CoCa's stated average repeats a cell, OpenCLIP's is 0.2 points off; both notes say so."""
    off = set()
    for average in (e for e in PUBLISHED if e.dataset == "μ-Bench coarse, average"):
        cells = [
            e.value
            for e in PUBLISHED
            if e.model == average.model and (e.task or "").startswith("ubench-coarse-")
        ]
        assert len(cells) == 4
        if abs(sum(cells) / 4 - average.value) > 1.1e-4:
            off.add(average.model)
            assert f"{sum(cells) * 25:.2f}" in average.note
    assert off == {"CoCa", "OpenCLIP"}


GOOD = """
[[tables]]
source = "a paper"
how = "paper"
unit = "percent"
protocol = "zero_shot"
columns = [{dataset = "a", metric = "accuracy"}, {dataset = "b", metric = "text_to_image/5"}]
rows = [{model = "m", values = [50, nan]}]
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[50, nan]", "[50]", "'m' has 1 values for 2 columns"),
        ("[50, nan]", "[150, 1]", "'m' has 150.0 for 'a'; a percent from 0 to 100"),
        ('"percent"', '"share"', "a share from 0 to 1 is expected"),
        ("accuracy", "acuracy", "did you mean 'accuracy'"),
        ("text_to_image/5", "text_to_image/0", "unknown metric 'text_to_image/0'"),
        ('"paper"', '"rumour"', r"tables\.0\.how"),
        ("source =", "sauce =", r"tables\.0\.(source|sauce)"),
        ("[[tables]]", "[[tables", "no TOML"),
    ],
)
def test_wrong_files_of_scores(old: str, new: str, message: str) -> None:
    """The message names file, table and what would do."""
    with pytest.raises(ConfigError, match=message) as caught:
        parse_published(GOOD.replace(old, new, 1), "mine.toml")
    assert "mine.toml" in str(caught.value)


def test_scores_of_ones_own(tmp_path: Path) -> None:
    """A folder adds to those of the package; a cell that the source lacks is no score."""
    (tmp_path / "mine.toml").write_text(GOOD)
    added = load_published([tmp_path])
    assert len(added) == len(PUBLISHED) + 1
    assert (
        PublishedScore(
            model="m",
            task=None,
            dataset="a",
            metric="accuracy",
            value=0.5,
            protocol="zero_shot",
            source="a paper",
            how="paper",
        )
        in added
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ConfigError, match="no published scores"):
        load_published([empty])
