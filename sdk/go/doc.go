// Package prewarmer is a client of the REST API of Prewarmer, which pulls container images to
// Kubernetes nodes before the pods that need them.
//
//	client, err := prewarmer.FromEnv()
//	task, err := client.CreateTask(ctx, prewarmer.TaskRequest{Images: []string{"nginx:1.27"}})
//	done, err := client.Wait(ctx, task.TaskID, prewarmer.FailUnlessCompleted())
//
// A Client is safe for concurrent use. Calls that fail transiently are retried if a retry cannot
// have the effect twice. Error responses are returned as [APIError] with the server's message.
package prewarmer

//go:generate go run ./internal/gen -in ../../deploy/openapi.json -out types.gen.go
