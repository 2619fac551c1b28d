from nonlocalnet.inspection.curves import curves, panels


def test_one_line_a_run_one_legend_entry_a_group():
    figure = curves({"a": [([1, 2], [3, 4]), ([1, 2], [4, 5])], "b": [([1], [2])]}, ylabel="%")
    (axis,) = figure.axes
    assert len(axis.lines) == 3
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["a", "b"]


def test_a_run_looks_the_same_in_all_panels_and_stands_in_the_legend_once():
    names = [f"run {k}" for k in range(10)]
    loss = {name: ([1, 2], [k, k + 1]) for k, name in enumerate(names)}
    figure = panels({"loss": loss, "top-1": {"run 9": ([1], [2])}}, xlabel="iteration")
    top, bottom = figure.axes
    looks = [(line.get_color(), line.get_linestyle()) for line in top.lines]
    assert len(set(looks)) == 10
    assert (bottom.lines[0].get_color(), bottom.lines[0].get_linestyle()) == looks[9]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names
