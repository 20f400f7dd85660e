package main

import (
	"bufio"
	"strings"
	"testing"
)

func TestCallsAreSummedUp(t *testing.T) {
	const summary = `% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 50.00    0.000200           2       100        50 read
 30.00    0.000120           1        70           write
 20.00    0.000080           1        30           epoll_pwait
------ ----------- ----------- --------- --------- ----------------
100.00    0.000400           2       200        50 total
`
	if got, err := parseCalls([]byte(summary)); err != nil || got != 170 {
		t.Errorf("got %d, %v; want 170", got, err)
	}
	if got, err := parseCalls(nil); err == nil {
		t.Errorf("got %d of nothing", got)
	}
}

func TestTracerIsReadyWhenItHasAllProcesses(t *testing.T) {
	tests := map[string]struct {
		output  string
		wantErr string
	}{
		"both":     {output: "strace: Process 7 attached with 9 threads\nstrace: Process 8 attached\n"},
		"one":      {output: "strace: Process 7 attached\n", wantErr: "ended"},
		"not ours": {output: "strace: attach: ptrace(PTRACE_SEIZE, 7): Operation not permitted\n", wantErr: "permitted"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			err := awaitAttached(bufio.NewScanner(strings.NewReader(tc.output)), 2)
			if tc.wantErr == "" && err != nil || tc.wantErr != "" && (err == nil || !strings.Contains(err.Error(), tc.wantErr)) {
				t.Errorf("got error %v, want %q", err, tc.wantErr)
			}
		})
	}
}
