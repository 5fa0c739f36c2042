# The container image: targets of the Makefile, which includes this file. reproduce/container/README.md explains them.

ENGINE ?=
TAG ?= migrl
BASE ?=
FLASH_ATTN ?=
VLLM ?=
GPUS ?= all
CMD ?= migrl reproduce --recipe $(RECIPE) $(SET)
ARCHIVE ?= migrl-image.tar
BUILD_FLAGS ?=
RUN_FLAGS ?=

# exec: make hands SIGTERM to its own child only, which is to be the script and not a shell before it.
IMAGE = exec env ENGINE='$(ENGINE)' TAG='$(TAG)' BASE='$(BASE)' FLASH_ATTN='$(FLASH_ATTN)' VLLM='$(VLLM)' \
  GPUS='$(GPUS)' BUILD_FLAGS='$(BUILD_FLAGS)' RUN_FLAGS='$(RUN_FLAGS)' reproduce/container/image.sh

.PHONY: image image-run image-archive

image: ## build the image with docker, podman or buildah
	@$(IMAGE) build

image-run: ## the same as make reproduce, in the image, on its GPUs; CMD="make test" GPUS=none: something else
	@$(IMAGE) run '$(subst ','\'',$(CMD))'

image-archive: ## save the image as an OCI archive with its sha256
	@$(IMAGE) archive '$(ARCHIVE)'
