"""`python -m fer_nas_live.hashes` writes the SHA-256 of every released model into its card (`make hashes`)."""

from __future__ import annotations

from fer_nas_live import models


def main() -> None:
    for model in models.find():
        print(f"{model.name}: {'card brought up to date' if models.refresh(model) else 'card is right'}")


if __name__ == "__main__":
    main()
