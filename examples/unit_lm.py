"""A small language model of units, so that the way from audio to a model is gone once from end to end.

python examples/unit_lm.py [UNITS.jsonl] [OUTPUT] [STEPS]

UNITS.jsonl is of `sdhubert tokenize --format jsonl --dedup`, as corpus_to_units.py leaves it; OUTPUT gets the model and
its curve. The first tenth of the recordings, by id, is held out. What it does on real speech: docs/units.md.
"""

import json
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from transformers import OPTConfig, OPTForCausalLM

END, LONGEST, BATCH, EVERY = 0, 256, 32, 20  # END begins a recording and ends it; unit u is token u + 1
SHAPE = {"hidden_size": 64, "word_embed_proj_dim": 64, "ffn_dim": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
TOKENS = {"bos_token_id": END, "eos_token_id": END, "pad_token_id": None, "max_position_embeddings": LONGEST}


def main(units: str = "out/units/sequences/units.jsonl", output: str = "out/unit_lm", steps: str = "120") -> None:
    """Train, and print the loss on the recordings held out beside the unigram's, in nats a token."""
    lines = sorted(map(json.loads, Path(units).read_text().splitlines()), key=lambda line: str(line["id"]))
    sequences = [torch.tensor([END, *(unit + 1 for unit in line["units"]), END]) for line in lines]
    both = sequences[: -(-len(sequences) // 10)], sequences[-(-len(sequences) // 10) :]
    held_out, train = ([part for one in some for part in torch.split(one, LONGEST)] for some in both)
    size = 1 + max(int(one.max()) for one in sequences)
    seen, expected = (torch.cat([part[1:] for part in some]) for some in (train, held_out))
    logits = (torch.bincount(seen, minlength=size) + 1.0).log().expand(len(expected), -1)  # no unit is impossible
    unigram = torch.nn.functional.cross_entropy(logits, expected).item()
    print(f"{len(seen)} tokens of {size} kinds to learn from, {len(expected)} held out")
    torch.manual_seed(0)
    model = OPTForCausalLM(OPTConfig.from_dict({**SHAPE, **TOKENS, "vocab_size": size, "dropout": 0.2}))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    curve = {}
    for step in range(1, int(steps) + 1):
        torch.autograd.backward(loss_of(model.train(), [train[i] for i in torch.randint(len(train), (BATCH,))]))
        optimizer.step()
        optimizer.zero_grad()
        if step % EVERY == 0:
            with torch.no_grad():
                curve[step] = loss_of(model.train(False), held_out).item()
            print(f"step {step:4}  held out {curve[step]:.3f}  unigram {unigram:.3f}", flush=True)
    model.save_pretrained(output)
    figure = Figure((6, 3), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="nats a token", title="blue: held out, orange: the unigram")
    axes.plot(list(curve), [(loss, unigram) for loss in curve.values()])
    figure.savefig(f"{output}/curve.png", dpi=120)


def loss_of(model: OPTForCausalLM, parts: list[torch.Tensor]) -> torch.Tensor:
    """Cross entropy of all tokens but the first of each."""
    tokens, labels = (torch.nn.utils.rnn.pad_sequence(parts, True, value) for value in (END, -100))
    return torch.nn.functional.cross_entropy(model(tokens[:, :-1]).logits.flatten(0, 1), labels[:, 1:].flatten())


if __name__ == "__main__":
    main(*sys.argv[1:])
