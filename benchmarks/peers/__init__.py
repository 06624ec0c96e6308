"""Search servers that others build, asked the same of the same chunks by the same model, beside ours."""
