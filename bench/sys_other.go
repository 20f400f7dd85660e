//go:build !linux

package main

import (
	"errors"
	"syscall"
	"time"
)

func childAttributes() *syscall.SysProcAttr { return nil }

func processCPU(int) (time.Duration, error) { return 0, errors.ErrUnsupported }

func sleepUntil(t time.Time) { time.Sleep(time.Until(t)) }
