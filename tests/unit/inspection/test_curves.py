from nonlocalnet.inspection.curves import panels


def test_a_run_looks_the_same_in_all_panels_and_stands_in_the_legend_once():
    names = [f"run {k}" for k in range(10)]
    loss = {name: ([1, 2], [k, k + 1]) for k, name in enumerate(names)}
    figure = panels({"loss": loss, "top-1": {"run 9": ([1], [2])}}, xlabel="iteration")
    top, bottom = figure.axes
    looks = [(line.get_color(), line.get_linestyle()) for line in top.lines]
    assert len(set(looks)) == 10
    assert (bottom.lines[0].get_color(), bottom.lines[0].get_linestyle()) == looks[9]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names
