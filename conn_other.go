//go:build !linux

package websocketproxy

import "syscall"

// backlog is not known here.
func backlog(syscall.Conn) int { return 0 }
