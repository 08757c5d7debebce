// Package prewarmer calls the REST API of Prewarmer, which pulls container images to Kubernetes nodes before the pods that
// need them.
//
//	client, err := prewarmer.FromEnv()
//	task, err := client.CreateTask(ctx, prewarmer.TaskRequest{Images: []string{"nginx:1.27"}})
//	done, err := client.Wait(ctx, task.TaskID, prewarmer.FailUnlessCompleted())
//
// A Client may be used by several goroutines at once. What fails because the server or the network is busy is tried again
// where that cannot do anything twice; everything else is an [APIError] with the server's words.
package prewarmer

//go:generate go run ./internal/gen -in ../../deploy/openapi.json -out types.gen.go
