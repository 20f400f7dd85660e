package relay

import (
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// Descriptors may be short when the first tunnel comes, and there again later.
func TestPollersThatCannotBeMadeLeaveNothing(t *testing.T) {
	before := descriptors(t)
	for most := range uint64(10_000) {
		var all []*poller
		var err error
		withDescriptors(t, most, func() { all, err = newPollers(2) })
		for _, p := range all {
			_, _, _ = unix.Close(p.epoll), unix.Close(p.event), unix.Close(p.null)
		}
		if after := descriptors(t); !slices.Equal(before, after) {
			t.Fatalf("descriptors are %v, were %v", after, before)
		}
		if err == nil {
			return
		}
	}
	t.Error("no pollers can be made")
}

func descriptors(t *testing.T) []string {
	t.Helper()
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dir.Close() }()
	names, err := dir.Readdirnames(0)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}

// withDescriptors calls f while the process can have only those with numbers up to most.
func withDescriptors(t *testing.T, most uint64, f func()) {
	t.Helper()
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: most, Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
			t.Fatal(err)
		}
	}()
	f()
}
