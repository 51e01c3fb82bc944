# sandboxd: what to type. Every target does the set-up it needs by itself, says what it does, and is quick the second time.

CARGO   ?= cargo
# Images are built here; a second build of the same recipes takes a millisecond.
STORE   ?= /var/lib/sandboxd/rootfs
RELEASE := target/release/sandboxd
# Linked statically (and position-independent): a run at the terminal starts 0.4 to 0.8 ms sooner, which is a tenth of it.
# Relocations packed: a megabyte less to read at each start.
BUILD_RELEASE = $(CARGO) rustc --release --bin sandboxd -- -C target-feature=+crt-static \
	-C link-arg=-Wl,-z,pack-relative-relocs

# For each target of `make fuzz`; all changes follow from the seed.
FUZZ_SECONDS ?= 300
FUZZ_SEED    ?= $(shell date +%s)

# Of the faults that `make faults` makes, every so many-th one is made.
FAULT_STRIDE ?= 1

# A package's files are below /usr, whose units are not the administrator's.
PREFIX  ?= /usr/local
UNITS   := $(if $(filter /usr,$(PREFIX)),/usr/lib,/etc)/systemd/system

.DEFAULT_GOAL := help
.PHONY: help build run test fuzz faults test-clients test-hosts soak bench rootfs rootfs-all languages check selftest lint man install install-files deb clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build the program: target/release/sandboxd
	@scripts/setup cc
	$(BUILD_RELEASE)

run: build ## Run examples/hello.py in a complete sandbox
	@scripts/setup mmdebstrap mkfs.erofs pip3
	@$(RELEASE) --rootfs-dir $(STORE) rootfs build python
	$(RELEASE) --rootfs-dir $(STORE) run examples/hello.py

test: ## Run every test: unit, root, attacks, cgroup v2 and a Fly machine under User Mode Linux
	@scripts/setup cc mmdebstrap mkfs.erofs npm pip3 linux.uml setpriv unshare python3 chromium chromedriver curl ip
	$(BUILD_RELEASE)
	@$(RELEASE) --rootfs-dir $(STORE) rootfs build
	SANDBOXD_ROOTFS_DIR=$(STORE) SANDBOXD_TEST_IMAGES=1 $(CARGO) test --no-fail-fast

fuzz: ## Try everything that reads what others wrote with changed inputs, FUZZ_SECONDS (300) for each
	@scripts/setup cc
	FUZZ_SECONDS=$(FUZZ_SECONDS) FUZZ_SEED=$(FUZZ_SEED) $(CARGO) test --test fuzz -- --nocapture

faults: ## Fail every system call of a run, of the service and of its start once, by every error (half an hour)
	@scripts/setup cc mmdebstrap mkfs.erofs
	$(BUILD_RELEASE)
	@$(RELEASE) --rootfs-dir $(STORE) rootfs build base
	SANDBOXD_ROOTFS_DIR=$(STORE) FAULT_STRIDE=$(FAULT_STRIDE) $(CARGO) test --test faults --test injection -- --nocapture --test-threads=1

test-clients: ## Run clients that others wrote against the service, with the one that takes minutes to build
	@scripts/setup cc mmdebstrap mkfs.erofs npm pip3 python3
	$(BUILD_RELEASE)
	@$(RELEASE) --rootfs-dir $(STORE) rootfs build
	SANDBOXD_ROOTFS_DIR=$(STORE) SANDBOXD_TEST_IMAGES=1 $(CARGO) test --test clients -- --include-ignored

test-hosts: ## Try the service on other kinds of machines: cgroup v2 and Fly (UML), Debian with systemd (QEMU); minutes
	@scripts/setup cc mmdebstrap mkfs.erofs mkfs.ext4 qemu-system-x86_64 linux.uml dpkg-deb setpriv unshare curl ip
	$(BUILD_RELEASE)
	@$(RELEASE) --rootfs-dir $(STORE) rootfs build python
	@$(MAKE) --no-print-directory man
	SANDBOXD_ROOTFS_DIR=$(STORE) SANDBOXD_TEST_VM=1 $(CARGO) test --test hosts -- --nocapture

soak: ## Run 100,000 programs, hostile ones among them, and look for what they leave (half an hour)
	@scripts/setup cc mmdebstrap mkfs.erofs npm pip3
	$(BUILD_RELEASE)
	@$(RELEASE) --rootfs-dir $(STORE) rootfs build base gcc python perl lua
	SANDBOXD_ROOTFS_DIR=$(STORE) SOAK_RUNS=$${SOAK_RUNS:-100000} $(CARGO) test --release --test soak -- --nocapture

bench: ## Measure cells against the bare command and bubblewrap (minutes)
	@scripts/setup cc mmdebstrap mkfs.erofs bwrap
	$(BUILD_RELEASE)
	@# Cargo links its own again before it measures.
	cp $(RELEASE) target/sandboxd-measured
	SANDBOXD_BIN=$(CURDIR)/target/sandboxd-measured $(CARGO) bench

rootfs: build ## Build the images of the default set of languages
	@scripts/setup mmdebstrap mkfs.erofs npm pip3
	$(RELEASE) --rootfs-dir $(STORE) rootfs build

rootfs-all: build ## Build every image there is a recipe for; begins where it was interrupted
	@scripts/setup mmdebstrap mkfs.erofs npm pip3 mvn
	$(RELEASE) --rootfs-dir $(STORE) rootfs build --all

languages: ## Run the corpus of every language built and write the table of rootfs/LANGUAGES.md
	SANDBOXD_ROOTFS_DIR=$(STORE) SANDBOXD_LANGUAGES_TABLE=$(CURDIR)/rootfs/LANGUAGES.md \
		$(CARGO) test --test languages -- every_language_passes_the_corpus

check: build ## Say what this machine can enforce
	$(RELEASE) --rootfs-dir $(STORE) check

selftest: build ## Try the field's attacks on this machine
	$(RELEASE) --rootfs-dir $(STORE) selftest

lint: ## Format check and clippy, warnings are errors
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings

man: build ## Write man pages and completions into target/man and target/completions
	$(RELEASE) man target/man
	@mkdir -p target/completions
	@for shell in bash zsh fish; do $(RELEASE) completions $$shell > target/completions/sandboxd.$$shell; done

install: build man install-files ## Install the program, man pages, completions and unit files below $(DESTDIR)$(PREFIX)

install-files:
	install -D -m 755 $(RELEASE) $(DESTDIR)$(PREFIX)/bin/sandboxd
	install -d $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 644 target/man/*.1 $(DESTDIR)$(PREFIX)/share/man/man1
	install -D -m 644 target/completions/sandboxd.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/sandboxd
	install -d $(DESTDIR)$(UNITS) $(DESTDIR)/etc/sandboxd
	sed 's,/usr/bin/sandboxd,$(PREFIX)/bin/sandboxd,' systemd/sandboxd.service > $(DESTDIR)$(UNITS)/sandboxd.service
	chmod 644 $(DESTDIR)$(UNITS)/sandboxd.service
	install -m 644 systemd/sandboxd.slice systemd/sandboxd.socket $(DESTDIR)$(UNITS)
	install -D -m 644 systemd/sandboxd.sysusers $(DESTDIR)/usr/lib/sysusers.d/sandboxd.conf
	install -D -m 644 systemd/sandboxd.tmpfiles $(DESTDIR)/usr/lib/tmpfiles.d/sandboxd.conf
	[ -e $(DESTDIR)/etc/sandboxd/config.toml ] || install -m 644 systemd/config.toml $(DESTDIR)/etc/sandboxd/config.toml

deb: build man ## Pack it as a Debian package: target/sandboxd_VERSION_ARCHITECTURE.deb
	@scripts/setup dpkg-deb
	scripts/deb

clean: ## Remove what cargo built (images stay: sandboxd rootfs remove)
	$(CARGO) clean
