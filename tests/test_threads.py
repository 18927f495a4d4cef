"""Imports that an interrupt leaves whole."""

import _thread
import signal
import sys
import threading

import pytest

from sdhubert_ray.threads import import_whole

MODULE = """
import threading
began, go = threading.Event(), threading.Event()
began.set()
go.wait()
whole = True
"""


def by_signal():
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


@pytest.mark.parametrize("interrupt_main", [by_signal, _thread.interrupt_main])  # a keyboard, and Ray
def test_what_is_interrupted_while_it_imports_has_imported_all_of_it(tmp_path, monkeypatch, interrupt_main):
    (tmp_path / "imported_slowly.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "imported_slowly", raising=False)

    def interrupt():
        while not hasattr(sys.modules.get("imported_slowly"), "go"):
            pass
        module = sys.modules["imported_slowly"]
        module.began.wait()
        interrupt_main()
        module.go.set()

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        import_whole("imported_slowly")
    thread.join()
    assert sys.modules["imported_slowly"].whole
    import_whole("imported_slowly")


def test_what_cannot_be_imported_says_so():
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        import_whole("no_such_module")
