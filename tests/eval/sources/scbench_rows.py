"""Two small rows for each of the twelve tasks, with the deviations that the released rows have."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]

ADD, SUB = "def add(a, b):\n    return a + b\n", "def sub(a, b):\n    return a - b\n"


def _kv(i: int) -> list[Row]:
    return [
        {"input": '\nKey: "k1"\nThe value associated with the specified key is: ', "answer": f"v1-{i}"},
        {"input": '\nKey: "k2"\nThe value associated with the specified key is: ', "answer": f"v2-{i}"},
    ]


def _functions() -> list[Row]:
    return [
        {"input": "Sums two.", "answer": ADD, "name": "add"},
        {"input": "Takes one off the other.", "answer": SUB, "name": "sub"},
    ]


def make(task: str, i: int) -> Row:
    """Row ``i`` of a task as its released file spells it."""
    pairs = f'JSON data:\n{{"k1": "v1-{i}", "k2": "v2-{i}"}}'
    if task == "kv":
        return {"id": i, "context": pairs, "multi_turns": _kv(i)}
    if task == "prefix_suffix":
        turns = [{"input": "Starts ab, ends cd:", "answer": "abXcd"}, {"input": "Starts ef:", "answer": "efYgh"}]
        return {"context": f"Dictionary: [abXcd, efYgh, q{i}]", "multi_turns": turns}
    if task == "vt":
        turns = [{"input": "Which hold 1?", "answer": ["AA", "BB"]}, {"input": "Which hold 2?", "answer": ["CC"]}]
        return {"index": i + 7, "input": f"Track. AA = 1. BB = AA. CC = 2. {i}", "length": 40, "multi_turns": turns}
    if task == "repoqa":
        return {
            "id": i,
            "lang": "python",
            "repo": "r/r",
            "context": f"# {i}\n{ADD}\n{SUB}",
            "multi_turns": _functions(),
        }
    if task == "qa_eng":
        turns = [{"input": "Who came?", "answer": "Anna"}, {"input": "Who left?", "answer": "Bert"}]
        return {"id": i, "context": f"Anna came. Bert left. {i}", "multi_turns": turns}
    if task == "qa_chn":
        turns = [{"input": "谁来了？", "answer": "安娜"}, {"input": "谁走了？", "answer": "伯特"}]
        return {"id": i, "context": f"安娜来了。伯特走了。{i}", "multi_turns": turns}
    if task == "choice_eng":
        turns = [
            {"input": "Who came?", "answer": "Otto", "options": ["Max", "Otto", "Eve", "Zoe"]},
            {"input": "Who left?", "answer": "Zoe", "options": ["Max", "Otto", "Eve", "Zoe"]},
        ]
        return {"id": i, "context": f"Otto came. Zoe left. {i}", "multi_turns": turns}
    if task == "mf":
        turns = [
            {"input": "One number only. The largest number of the list is:", "answer": 40 + i},
            {"input": "One number only. The smallest number of the list is:", "answer": 3},
        ]
        return {"id": i, "context": [17, 3, 40 + i], "multi_turns": turns}
    if task == "many_shot":
        turns = [{"input": "Q: sky?\nOptions: (A) up (B) down", "answer": "A"}, {"input": "Q: sea?", "answer": "B"}]
        return {"id": i, "task": "date_understanding", "context": f"Q: roof? A {i}", "multi_turns": turns}
    if task == "summary":
        turns = [
            {"input": "Sum up the first.", "answer": "It is one."},
            {"input": "The second.", "answer": "It is two."},
        ]
        return {"id": i, "context": f"First paper. Second paper. {i}", "multi_turns": turns}
    if task == "summary_with_needles":
        turns = [
            {"input": "Sum up the first.", "answer": "It is one.", "task": "scbench_summary"},
            {"input": "The pass key?", "answer": "71432", "task": "scbench_passkey"},
        ]
        return {"id": i, "context": f"First paper. The pass key is 71432. {i}", "multi_turns": turns}
    turns = [{**_functions()[0], "task": "scbench_repoqa"}, {**_kv(i)[1], "task": "scbench_kv"}]
    return {"id": i, "lang": "python", "repo": "r/r", "context": f"{ADD}\n{pairs}", "multi_turns": turns}
