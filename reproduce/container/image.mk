# The container image: targets of the Makefile, which includes this file. reproduce/container/README.md explains them.

ENGINE ?=
TAG ?= migrl
BASE ?=
FLASH_ATTN ?=
VLLM ?=
GPUS ?= all
CMD ?= make reproduce RECIPE=$(RECIPE) SET="$(SET)"
ARCHIVE ?= migrl-image.tar
BUILD_FLAGS ?=
RUN_FLAGS ?=

IMAGE = ENGINE='$(ENGINE)' TAG='$(TAG)' BASE='$(BASE)' FLASH_ATTN='$(FLASH_ATTN)' VLLM='$(VLLM)' GPUS='$(GPUS)' \
  BUILD_FLAGS='$(BUILD_FLAGS)' RUN_FLAGS='$(RUN_FLAGS)' reproduce/container/image.sh

.PHONY: image image-run image-archive

image: ## build the image with docker, podman or buildah
	@$(IMAGE) build

image-run: ## make reproduce in the image, with its GPUs; CMD="make smoke" GPUS=none: something else
	@$(IMAGE) run '$(subst ','\'',$(CMD))'

image-archive: ## save the image as an OCI archive with its sha256
	@$(IMAGE) archive '$(ARCHIVE)'
