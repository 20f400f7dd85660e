package websocketproxy

import (
	"context"
	"errors"
	"maps"
	"sync"
)

// keeper holds what operators have said about upstreams.
type keeper struct {
	mu     sync.Mutex
	states map[string]operatorState
}

var operators = keeper{states: make(map[string]operatorState)}

// set takes note of what an operator says, and stores it. Its error says why it
// could not be stored; it holds all the same.
func (k *keeper) set(_ context.Context, address string, s operatorState) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if s.closes() {
		k.states[address] = s
	} else {
		delete(k.states, address)
	}
	k.applyLocked()
	return errors.New("there is no storage")
}

// applyLocked makes the states count.
func (k *keeper) applyLocked() {
	evict, _ := hosts.setStates(maps.Clone(k.states))
	for _, address := range evict {
		liveTunnels.evictFrom(address, k.states[address].evictPeriod())
	}
}
