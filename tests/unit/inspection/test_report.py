from nonlocalnet.inspection.curves import panels
from nonlocalnet.inspection.report import html_report, paragraph, picture, table


def test_a_page_is_one_file_and_escapes_what_it_is_given():
    figure = panels({"%": {"a": ([1], [1])}}, xlabel="iteration")
    parts = [paragraph("<script>"), table(("<b>",), (("&",),)), picture(figure, 'say "x"')]
    html = html_report("<title>", parts)
    assert "<script>" not in html
    assert "<b>" not in html
    assert "&lt;script&gt;" in html
    assert 'alt="say &quot;x&quot;"' in html
    assert "src=" in html
    # what is wider than a phone scrolls in its own place
    assert html.count('<div class="wide"><table>') == html.count("<table>") == 1
    assert html.count('<div class="wide"><img') == html.count("<img") == 1
    assert ".wide { overflow-x: auto; }" in html
    assert html.count("src=") == html.count('src="data:image/png;base64,')
