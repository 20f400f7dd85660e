package demo

import (
	"testing"
	"time"
)

func TestTrafficStopsWhenItIsTold(t *testing.T) {
	up, err := Start()
	if err != nil {
		t.Fatal(err)
	}
	traffic := StartTraffic("ws://" + up.Addr + "/echo")
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		traffic.Stop()
	}()
	select {
	case <-stopped:
	case <-time.After(30 * time.Second):
		t.Error("clients are still there")
	}
	if err := up.Stop(); err != nil {
		t.Error(err)
	}
}
