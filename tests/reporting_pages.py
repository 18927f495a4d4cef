"""Reports opened in a browser, whose errors and requests are noted."""


def open_page(browser, file, **options):
    """Open a page; `problems` are what its console complains of, `asked` the URLs that it has asked for."""
    page = browser.new_context(**options).new_page()
    page.problems, page.asked = [], []
    page.on("console", lambda line: page.problems.append(line.text) if line.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("dialog", lambda dialog: page.problems.append(dialog.message))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(file.as_uri())
    page.wait_for_function("() => document.documentElement.dataset.ready === 'yes'")
    return page
