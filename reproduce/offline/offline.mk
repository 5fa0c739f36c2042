# A machine without a network, whose own Python has torch (reproduce/README.md, section 9): wheels are made elsewhere.

HAVE ?=

.PHONY: wheels setup-offline

wheels: $(STAMP) ## what a machine with its own torch lacks, into wheels/, to take there (HAVE=list.txt: its own pip list)
	$(BIN)/python reproduce/offline/wheels.py --out wheels $(if $(HAVE),--have "$(HAVE)") $(ARGS)

# The machine's packages are seen through a .pth file, behind ours; its python3 may itself be a virtual environment,
# which --system-site-packages would look past. setuptools, which builds this package, may be one of them.
setup-offline: ## .venv from wheels/ over this machine's own packages, torch among them (no network)
	@ls wheels/*.whl >/dev/null 2>&1 || { echo "setup-offline: no wheels/*.whl here; run make wheels where there is" \
	  "a network, and bring the folder" >&2; exit 1; }
	$(or $(PYTHON),python3) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-index --no-deps wheels/*.whl
	$(or $(PYTHON),python3) -c 'import sysconfig; paths = sysconfig.get_paths(); \
	  print(*(f"import site; site.addsitedir({paths[name]!r})" for name in ("purelib", "platlib")), sep="\n")' \
	  > "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/of_this_machine.pth"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation -e .
	$(BIN)/python reproduce/offline/wheels.py --check
	@touch $(STAMP)
