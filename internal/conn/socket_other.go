//go:build !linux

package conn

import (
	"syscall"
	"time"
)

// backlog is not known here.
func backlog(syscall.Conn) int { return 0 }

// acknowledged is not known here.
func acknowledged(syscall.Conn) (n uint64, ok bool) { return 0, false }

// resetOnClose does nothing here: as long as nobody knows the backlog, a reset could
// take away what the peer would still have got.
func resetOnClose(interface{ SetLinger(sec int) error }) {}

// setUserTimeout does nothing here: the sweep notices a peer that takes nothing,
// and keepalive one that is gone.
func setUserTimeout(syscall.Conn, time.Duration) {}
