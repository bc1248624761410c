"""An engine as an object of the test's own process: what `process.Remote` does, without its seconds. Death needs a real one."""

from __future__ import annotations

import threading

import torch

from tutelage.config import load_plug_in
from tutelage.evaluation.engine.process import EngineError, EngineFailed

ONE_AT_A_TIME = threading.Lock()
"""transformers does not load two models at once."""


class Inside:
    """The face of `Remote`."""

    def __init__(self, factory, options, log=None, timeout=600.0):
        self.factory, self.options, self.engine, self.closed = factory, options, None, False

    @property
    def running(self):
        return self.engine is not None

    def start(self, variables=None):
        if self.closed:
            raise EngineError("the engine was closed")
        threads = torch.get_num_threads()
        with ONE_AT_A_TIME, torch.random.fork_rng(devices=[]):
            self.engine = load_plug_in("eval.backend", self.factory)(**self.options)
        torch.set_num_threads(threads)

    def call(self, method, *arguments, on_progress=None, snapshot=None, **options):
        if self.engine is None:
            raise EngineError("the engine is not running")
        weights = () if snapshot is None else (snapshot.tensors(),)
        reports = {} if on_progress is None else {"on_finished": on_progress}
        try:
            return getattr(self.engine, method)(*weights, *arguments, **options, **reports)
        except Exception as error:
            raise EngineFailed(f"the engine failed: {type(error).__name__}: {error}") from None

    def end(self):
        self.engine = None

    def close(self):
        self.closed = True
        self.end()
