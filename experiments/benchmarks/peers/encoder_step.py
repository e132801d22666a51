"""An encoder of the shape of MiniLM-L6 in torch, timed; prints JSON. Its own program, no module.

    python experiments/benchmarks/peers/encoder_step.py BATCH LENGTH DTYPE REPEATS THREADS

Needs torch and transformers. `experiments.benchmarks.encoder --peer=PYTHON` runs it with that
interpreter. Eager attention with all maps out; bfloat16 by autocast. Medians of wall and processor
time, milliseconds.
"""

import contextlib
import json
import statistics
import sys
import time

import torch  # pyright: ignore[reportMissingImports]
from transformers import BertConfig, BertModel  # pyright: ignore[reportMissingImports]


def main():
    """Times a forward pass and a gradient."""
    batch, length, dtype, repeats, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    config = BertConfig(
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation="eager",  # pyright: ignore[reportCallIssue]
    )
    model = BertModel(config, add_pooling_layer=False)
    ids = torch.randint(1, 30_000, (int(batch), int(length)))
    mask = torch.ones_like(ids)
    half = dtype == "bfloat16"

    def call():
        with torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext():
            return model(ids, mask, output_attentions=True, output_hidden_states=True)

    def forward():
        with torch.no_grad():
            call()

    def step():
        model.zero_grad()
        out = call()
        loss = (out.last_hidden_state.float() ** 2).mean()
        (loss + sum((a.float() ** 2).mean() for a in out.attentions)).backward()

    found = {}
    for name, function in (("forward", forward), ("step", step)):
        function()
        times = []
        for _ in range(int(repeats)):
            wall, cpu = time.perf_counter(), time.process_time()
            function()
            times.append((time.perf_counter() - wall, time.process_time() - cpu))
        found[name] = [1e3 * statistics.median(column) for column in zip(*times, strict=True)]
    print(json.dumps({"torch": torch.__version__, **found}))


if __name__ == "__main__":
    main()
