//go:build !linux

package dashboard

// countDescriptors does not know.
func countDescriptors() descriptors { return descriptors{} }
