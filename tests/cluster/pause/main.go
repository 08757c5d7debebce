// pause sleeps until it is told to stop: the sandbox image of the test
// cluster's real nodes, and a program for workloads that only have to run.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	<-stop
}
