package testbed

import (
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
	"testing"
)

// Missing skips a test that needs what this machine does not have. In continuous
// integration, which sets CI, it has to be there.
func Missing(tb testing.TB, format string, args ...any) {
	tb.Helper()
	if os.Getenv("CI") != "" {
		tb.Fatalf(format, args...)
	}
	tb.Skipf(format, args...)
}

// Program returns the path of a program, without which a test is [Missing] something.
func Program(tb testing.TB, name string) (path string) {
	tb.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Missing(tb, "there is no %s: %v", name, err)
	}
	return path
}

// Ports are taken from below the range that systems use for the local ends of
// connections, from a random one on, so that nobody takes one in the moment before a
// server listens on it, and that one that was stopped can have its port again.
var (
	firstPort = 12000 + rand.IntN(15000)
	portsUsed atomic.Int64
)

// FreeAddr returns an address of 127.0.0.1 that is free for TCP and UDP, for a server in
// another process.
func FreeAddr(tb testing.TB) string {
	tb.Helper()
	for range 1000 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(firstPort+int(portsUsed.Add(1))))
		var lc net.ListenConfig
		ln, err := lc.Listen(tb.Context(), "tcp", addr)
		if err != nil {
			continue
		}
		_ = ln.Close()
		pc, err := lc.ListenPacket(tb.Context(), "udp", addr)
		if err != nil {
			continue
		}
		_ = pc.Close()
		return addr
	}
	tb.Fatal("no free port")
	return ""
}
