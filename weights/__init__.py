"""Model cards (JSON) and weights (safetensors). Data only: `hemoscan.card` reads them."""
