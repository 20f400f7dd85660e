GOLANGCI_LINT = github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
FUZZTIME ?= 30s

.PHONY: test race lint fuzz bench

test:
	go test ./...

race:
	INTEGRATION_RACE=1 go test -race -shuffle=on ./...

lint:
	test -z "$$(gofmt -l . | tee /dev/stderr)"
	go vet ./...
	cd bench && go vet ./...
	cd examples/verify && go vet ./...
	go run $(GOLANGCI_LINT) run

# The minimizer can hold a target for most of a short run.
fuzz:
	go list ./... | while read -r p; do \
		go test -list '^Fuzz' "$$p" | grep '^Fuzz' | while read -r f; do \
			go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1x "$$p" || exit 1; \
		done || exit 1; \
	done

bench:
	cd bench && go run .
