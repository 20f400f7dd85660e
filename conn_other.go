//go:build !linux

package websocketproxy

import (
	"syscall"
	"time"
)

// backlog is not known here.
func backlog(syscall.Conn) int { return 0 }

// setUserTimeout does nothing here: the sweep notices a peer that takes nothing,
// and keepalive one that is gone.
func setUserTimeout(syscall.Conn, time.Duration) {}
