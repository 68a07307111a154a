"""What `predict` does not import: a prediction from the shell takes little longer than torch and healpy to start."""

import subprocess
import sys

SLOW = ("torch._dynamo", "sympy", "open_clip", "torchvision", "timm", "transformers", "huggingface_hub", "pyarrow")


def test_predict_imports_nothing_slow_that_it_does_not_need(run, pictures):
    code = f"""if True:
        import sys
        from locdiff import predict
        predict.main(sys.argv[1:])
        print([name for name in {SLOW} if name in sys.modules])"""
    done = subprocess.run([sys.executable, "-c", code, str(run), *pictures], capture_output=True, text=True, check=True)
    *lines, imported = done.stdout.splitlines()
    assert len(lines) == 1 + len(pictures) and imported == "[]"
