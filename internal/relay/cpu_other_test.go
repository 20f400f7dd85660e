//go:build !unix

package relay

import (
	"testing"
	"time"
)

// cpuTime is not known.
func cpuTime(testing.TB) time.Duration { return 0 }
